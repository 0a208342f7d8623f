"""`extproc manifests`: every Kubernetes object that a gateway needs to work with us, with a reason at each line."""
