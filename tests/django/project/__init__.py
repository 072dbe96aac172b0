"""A small bank: a project, and its only application."""
