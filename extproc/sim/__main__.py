from extproc.sim.command import sim

sim(prog_name="extproc sim")
