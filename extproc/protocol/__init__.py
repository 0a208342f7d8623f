"""The ext_proc conversation: `codec` (protobuf) → `stream` (rules, no I/O) → `messages` (values)."""
