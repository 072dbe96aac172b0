"""Django on pooled connections: its MySQL backend, and its Redis cache."""
