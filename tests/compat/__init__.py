"""How well drivers' own tests, and old drivers, get on with the pools; see Makefile."""
