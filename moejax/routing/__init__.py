"""Routers: tokens -> plan. One file each; the file's name is the router's name in a config."""
