"""`extproc demo`, and the launchers it shares with the end-to-end tests and the benchmarks."""
