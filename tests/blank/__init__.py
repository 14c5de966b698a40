"""A stage with holes, for a student to write: `make blank-4`.

    holes.txt     the words for each hole: what has to happen there, in which order
    cut.py        cuts the bodies of the steps out of a stage's server.cpp, and puts words there
    __main__.py   the command line: writes my/04_poll
"""
