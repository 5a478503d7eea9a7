"""What the programs share: questions in, a file of answers out."""

import json
import sys


def answer(**ways):
    """Runs the function that each question names, with what else it says, and writes what they find."""
    path, questions = sys.argv[1], json.loads(sys.argv[2])
    found = [ways[question.pop("do")](**question) for question in questions]
    with open(path, "w") as file:
        json.dump(found, file)
