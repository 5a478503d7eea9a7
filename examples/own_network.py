"""A network of one's own: two that ship, averaged. An object with shape and predict is enough."""

import edm2_guidance as eg


class Mean:
    """The mean of denoisers D(x; sigma) that know the same classes."""

    def __init__(self, *networks):
        self.networks = networks
        self.shape, self.num_classes = networks[0].shape, networks[0].num_classes

    def predict(self, x, sigma, y):
        """x [N, C, H, W]; y: the classes, one-hot [N, num_classes], or None."""
        return sum(network.predict(x, sigma, y).denoised for network in self.networks) / len(self.networks)


main, weak = eg.open_model("mnist16-cond"), eg.open_model("mnist16-weak")
for name, network in {"one network": main, "two": Mean(main, weak)}.items():
    recipe = eg.Recipe(network, num_steps=8)
    print(f"{name}, recipe {recipe.hash[:6]}: {eg.score(recipe, 'mnist16', num=100)['fd_mnist']}")
eg.generate(recipe, 16).grid().save("digits.png")
