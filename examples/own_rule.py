"""A guidance rule of one's own, beside the linear one: the push is clipped where it is large."""

import edm2_guidance as eg


def clipped(main, references, weights, most=0.5):
    """D = D_m + (w - 1) (D_m - D_ref), no channel of which moves further than `most` standard deviations of D_m."""
    push = (weights[0] - 1) * (main - references[0])
    limit = most * main.std(dim=(1, 2, 3), keepdim=True)
    return main + push.clamp(-limit, limit)


if __name__ == "__main__":  # so that --rule=examples/own_rule.py:clipped runs none of it
    main, weak = eg.open_model("mnist16-cond"), eg.open_model("mnist16-weak")
    for rule in ("linear", clipped):
        recipe = eg.Recipe(main, eg.Guide(weak, 2.5), num_steps=8, rule=rule)
        print(f"{recipe.rule.kind}: {eg.score(recipe, 'mnist16', num=100)['fd_mnist']}")
