"""Samples kept before they are decoded, then decoded and scored again: in 8 bits, and by a decoder of one's own."""

import edm2_guidance as eg

recipe = eg.Recipe("mnist16-cond", eg.Guide("mnist16-weak", 1.5), num_steps=8)
eg.sample_latents(recipe, seeds=100).save("latents.npz")  # float32; of a latent network, what its VAE decodes

latents = eg.Latents.load("latents.npz")
images = eg.decode(recipe, latents)
print("decoded:", eg.score(images, "mnist16", "fd_mnist")["fd_mnist"])
black_and_white = eg.ImageBatch((latents.values > 0).byte() * 255, latents.seeds, latents.labels)
print("as black and white:", eg.score(black_and_white, "mnist16", "fd_mnist")["fd_mnist"])
