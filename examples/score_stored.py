"""Images kept in a ZIP, which a call that was interrupted goes on with; then two measures of them."""

import edm2_guidance as eg

recipe = eg.Recipe("mnist16-cond", eg.Guide("mnist16-weak", 1.5), num_steps=8)
path = eg.generate_zip(recipe, seeds=100, path="digits.zip")
for score in eg.score(path, "mnist16", ["fd_mnist", "is/mnist"], ledger="scores.jsonl").values():
    print(score, *score.flags, sep="\n  ")
