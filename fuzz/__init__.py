"""Every reader of what others write, against bytes that nobody meant to write (`make fuzz`)."""
