"""Choosing an endpoint: filters narrow, scorers rate, a picker chooses."""
