"""Which weight of autoguidance makes the best digits? Scores of 100 images at each, with their intervals."""

import edm2_guidance as eg

main, weak = eg.open_model("mnist16-cond"), eg.open_model("mnist16-weak")
scores = {}
for weight in (1, 1.5, 2.5):
    recipe = eg.Recipe(main, eg.Guide(weak, weight), num_steps=8)
    scores[weight] = eg.score(recipe, "mnist16", num=100)["fd_mnist"]
    print(f"w = {weight}: {scores[weight]}")
print("best:", min(scores, key=lambda weight: scores[weight].value))
