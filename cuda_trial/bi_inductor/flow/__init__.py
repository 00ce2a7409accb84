"""Where the batch lives: an abstract interpretation of the graph, one value per node.

``axes.py`` is the domain, ``engine.py`` walks the graph, the other files say how each family of ops moves
the batch. Nothing here knows a plan or a device.
"""
