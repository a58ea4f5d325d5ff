"""The capacity planner's place. Empty so far: it will drive the scheduler and the placement that serve, in virtual
time; it loads no torch.
"""
