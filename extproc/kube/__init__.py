"""Kubernetes: what a cluster says about endpoints and models, and what we write to it."""
