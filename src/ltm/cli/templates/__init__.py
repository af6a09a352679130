"""What `ltm new` writes: the smallest method of each family that passes its family's contract, with its test.

Each file is Python as it stands; `new_method` and `NewMethod` become the method's name and class.
"""
