"""The tasks of the tools, wired from a spec: train, evaluate, inference. What a tool prints comes through `say`."""
