"""A ladder of small tests for anybody's server, in any language: `make try`.

    examined.py   the program that is examined: started as from a shell, looked at from outside
    rungs.py      the rungs: what the clients do, what is right, what it means if it is not
    explain.py    a failure, told in a few lines
    __main__.py   the command line
"""
