"""The routing simulator: our deciding core and its rivals in virtual time, over fleets of simulated engines."""
