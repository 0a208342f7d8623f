"""`extproc doctor`: looks at a running Envoy and at the router, and names each trap that is there.

`fetching` asks for pages, `setup` and what it stands on read them, `checks` are pure functions over that, `diagnosis`
runs them, `screen` prints.
"""
