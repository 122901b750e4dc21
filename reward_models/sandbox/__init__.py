"""Run programs that a model wrote against unit tests, walled off from everything else.

``run.py`` is the way in: a fresh subprocess per program. In it, ``child.py`` forks a judge, which
runs the tests, and the program, which only ever answers calls. The tests' expected values never
enter the program's process, so there is nothing there to print, patch or exit from that could make
a test pass. ``walls.py`` keeps both in, ``hook.py`` is the last of the walls, ``wire.py`` is what
the two say to each other. Nothing here is imported by the interpreter that trains but ``run.py``.
"""
