"""The capacity planner's place; empty so far.

It will drive the scheduler and the placement that serve, in virtual time. Loads no torch.
"""
