"""A night: trains the live model on the log of a new day, and publishes it if it passes the gates.

`chain` holds what a chain of nights trains and the rules that judge it, `attempt` the record of a
night, `parents` the model that a night begins from. `steps` does the work between two stages, and
`job` runs the steps in order.
"""
