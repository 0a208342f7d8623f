"""`make soak`: a service under churn for half an hour, and whether all that it held came back."""
