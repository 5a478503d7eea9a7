"""What the console commands of an installation start: the scripts, without their folder."""

from functools import partial

from edm2_guidance.cli.start import run

calculate_metrics = partial(run, "calculate_metrics")
count_flops = partial(run, "count_flops")
dataset_tool = partial(run, "dataset_tool")
explore = partial(run, "explore")
generate_images = partial(run, "generate_images")
generate_zip = partial(run, "generate_zip")
network_tool = partial(run, "network_tool")
reconstruct_phema = partial(run, "reconstruct_phema")
reproduce = partial(run, "reproduce")
toy_example = partial(run, "toy_example")
train_edm2 = partial(run, "train_edm2")
