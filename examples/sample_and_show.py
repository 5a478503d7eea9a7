"""Digits under classifier-free guidance, everywhere and in an interval: one picture each."""

import edm2_guidance as eg

main, unconditional = eg.open_model("mnist16-cond"), eg.open_model("mnist16-uncond")
for name, steps in {"everywhere": None, "interval": (2, 4)}.items():
    guide = eg.Guide(unconditional, weight=1.5, interval=steps)
    images = eg.generate(eg.Recipe(main, guide, num_steps=8, labels="balanced"), 10)
    images.grid(columns=5).save(f"{name}.png")
    print(f"{name}.png: classes {images.labels}")
