"""Run programs that a model wrote against unit tests, walled off from everything else.

``run.py`` is the way in: a fresh subprocess per program. In it, ``child.py`` forks the judge
(``judge.py``), which runs the tests, and the program (``answers.py``), which only answers calls.
What the tests expect never enters the program's process, so there is nothing there to print, patch
or exit from that could make a test pass. ``walls.py`` keeps both in, ``hook.py`` is the last of the
walls, ``wire.py`` is what the two say to each other. The interpreter that trains imports ``run.py``
and nothing else of it.
"""
