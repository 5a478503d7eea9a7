"""Two folders of images, one scored against the other: any PNGs will do, in place of those that are made here."""

from pathlib import Path

import edm2_guidance as eg

main, weak = eg.open_model("mnist16-cond"), eg.open_model("mnist16-weak")
for folder, network in {"good": main, "weak": weak}.items():
    Path(folder).mkdir()
    images = eg.generate(eg.Recipe(network, num_steps=8), 100)
    for seed, picture in enumerate(images.pil()):
        picture.save(f"{folder}/{seed:06d}.png")
for score in eg.score("weak", "good", ["fd_mnist", "precision/mnist", "recall/mnist"]).values():
    print(score, *score.flags, sep="\n  ")
