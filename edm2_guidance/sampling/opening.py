"""A recipe's networks opened, and everything checked that can be before the first image is made."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from dnnlib.inference import UNSAID, Inference
from dnnlib.places import recorded_place
from edm2_guidance.models import open_classifier, open_model
from edm2_guidance.models.base import Classifier, Model
from edm2_guidance.recipe.class_names import ClassName, find_class
from edm2_guidance.recipe.files import FileRef, ImageSet, NetworkRef
from edm2_guidance.recipe.parts import Rule
from edm2_guidance.recipe.prompts import Prompts, prompts_sha256, prompts_text, texts_of
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.generation import Base, Generation, Memory, labelled_network
from edm2_guidance.sampling.stored_base import StoredBase
from torch_utils.distributed import pick_device

_ROUNDING = 1 + 1e-5  # of a network's ends, as of those of a schedule, computed in float32


def check_guide(main: Model, guide: Model | Classifier) -> None:
    """ValueError unless the guide or classifier can stand beside the main network: same images, small ones too."""
    if isinstance(guide, Model) and guide.low_res_size not in (0, main.low_res_size):
        raise ValueError(
            f"the guide {guide.source} enlarges images of {guide.low_res_size}x{guide.low_res_size}, which the main "
            f"network {main.source} does not: take another guide"
        )
    role = "classifier" if isinstance(guide, Classifier) else "guide"
    for word, axis in (("resolution", -1), ("channels", 0)):
        if guide.shape[axis] != main.shape[axis]:
            raise ValueError(
                f"the {role} {guide.source} has {word} {guide.shape[axis]}, the main network {main.source} "
                f"{main.shape[axis]}: take a {role} trained on the same images"
            )


def open_network(source: str, *, classifier: bool = False, **how: Any) -> Model | Classifier:
    """`open_model`, or `open_classifier`."""
    return open_classifier(source, **how) if classifier else open_model(source, **how)


def open_recipe(
    recipe: Recipe,
    device: str = "auto",
    *,
    trust_pickle: bool = False,
    offline: bool = False,
    load: Callable[..., Any] = open_network,
    memory: Callable[[tuple[int, ...]], Memory] = lambda sizes: Memory(),
    stored: Callable[[str], StoredBase] = StoredBase,
    inference: Inference = UNSAID,
) -> Generation:
    """Open the networks of a recipe on a device and check that they fit. ValueError or OSError if they do not.

    inference: how all of them compute. memory: what is known of networks with these numbers of parameters, and, last,
    with a gradient or without. load, stored: open a network, and stored images.
    """
    target = _device_for(recipe, device)
    recipe.check_here()
    noise_device = target.type if recipe.noise_device == "device" else recipe.noise_device
    pick_device(noise_device, "--noise-device")

    loaded = functools.cache(functools.partial(load, device=target, trust_pickle=trust_pickle, offline=offline))
    main, guides = _opened_networks(recipe, loaded, target)
    recipe, notes = _resolved_for(main, recipe)
    notes += dict.fromkeys(note for each in (main, *guides) if isinstance(each, Model) for note in each.notes)
    open_base = functools.partial(
        open_recipe, device=device, trust_pickle=trust_pickle, offline=offline, load=load, memory=memory, stored=stored
    )
    base = _opened_base(main, recipe.base, open_base, stored)
    if base is not None:
        main, guides = _of_size(main, base), tuple(_of_size(guide, base) for guide in guides)
    others = [guide for guide in guides if guide is not None]
    labelled = labelled_network(main, others)
    if base is None:
        recipe = _with_checked_labels(recipe, labelled, notes)
    else:
        notes += base.notes
        recipe = _with_labels_of(base, recipe, labelled, notes)
        _note_other_prompts(base, recipe, notes)
    _check_references(recipe, main, guides, notes)
    if base is None and labelled is not main:
        recipe = _for_guides_alone(recipe, notes)
    _check_classes(recipe, main, guides)
    main.load_decoder(offline=offline)
    _check_sampling(recipe, main, notes)
    recipe = replace(
        _with_files(recipe, main, guides),
        base=None if base is None else base.recipe,
        noise_device=noise_device,
        encoder=main.identity["encoder"],
    )
    known = memory((*(model.num_parameters for model in (main, *others)), recipe.rule.takes_gradient))
    return Generation(recipe, main, guides, target, tuple(notes), known, base).computing(inference)


def _opened_networks(
    recipe: Recipe, load: Callable[..., Any], device: torch.device
) -> tuple[Model, tuple[Model | Classifier | None, ...]]:
    """The main network and the guides, told the recipe's prompts if they take some. Errors as of `open_recipe`."""
    prompts = texts_of(recipe.prompts)

    def opened(net: NetworkRef, option: str) -> Any:
        model = _loaded(load, net, option) if net.opened is None else _checked_open(net, option, device)
        return model.prompted(prompts) if prompts and _takes_prompts(model) else model

    main: Model = opened(recipe.net, "--net")
    guides = tuple(None if spec.net is None else opened(spec.net, spec.option) for spec in recipe.guides)
    _check_prompts(recipe, main, guides)
    for guide in guides:
        if guide is not None:
            check_guide(main, guide)
    return main, guides


def _resolved_for(main: Model, recipe: Recipe) -> tuple[Recipe, list[str]]:
    """`Recipe.resolved` of the recipe between noise levels that the main network is for, and notes."""
    schedule = recipe.schedule.within(main.sigma_min, main.sigma_max)
    resolved, notes = replace(recipe, schedule=schedule).resolved()
    known = f"{main.source} is for noise levels from {main.sigma_min:g} to {main.sigma_max:g}"
    if schedule != recipe.schedule:
        notes.append(f"{known}: the schedule is {schedule}")
    levels = resolved.levels()
    if levels[0] > main.sigma_max * _ROUNDING or levels[-1] * _ROUNDING < main.sigma_min:
        notes.append(f"{known}, and the schedule {schedule.caption} goes from {levels[0]:g} to {levels[-1]:g}")
    return resolved, notes


def _loaded(load: Callable[..., Any], net: NetworkRef, option: str) -> Any:
    """The network of a recipe, opened. OSError or ValueError if it cannot be had, or is another."""
    try:
        model = load(net.source, classifier=option == "--classifier")
    except FileNotFoundError as error:
        if net.sha256 is None or net.source != net.name:
            raise
        why = "the recipe was read, and names its content alone"  # of code, or of a file that is not found again
        raise FileNotFoundError(f"{error}; {why}: give it again, dataclasses.replace(recipe, net=...)") from None
    _check_content(net, model.identity["sha256"], f"{option}=PATH|URL")
    return model


def _checked_open(net: NetworkRef, option: str, device: torch.device) -> Any:
    """A network that was opened before. ValueError if it is elsewhere, or a classifier where none is meant."""
    model, wanted = net.opened, option == "--classifier"
    if isinstance(model, Classifier) != wanted:
        cure = (
            "no classifier: Guide(NETWORK, WEIGHT)" if wanted else "a classifier: classifier_guide(IT, SCALE, SAMPLER)"
        )
        raise ValueError(f"{net.source} is {cure} guides by it")
    if model.device != device:
        raise ValueError(f"{net.source} was opened on {model.device}: open it on {device}, with the others")
    return model


def _check_content(ref: FileRef, sha256: str, option: str) -> None:
    """ValueError, naming the option that gives it anew, for a file with another hash than its recipe has."""
    if ref.sha256 not in (None, sha256):
        raise ValueError(
            f"{ref.source} is another file than that of the recipe, its SHA-256 {sha256}, not {ref.sha256}: "
            f"{option} gives it anew"
        )


def _device_for(recipe: Recipe, device: str) -> torch.device:
    """The device of that name; auto is where networks are open already, if any are."""
    places = [net.opened.device for net in recipe.nets if net.opened is not None]
    target: torch.device = places[0] if device == "auto" and places else pick_device(device)
    if target.type == "mps" and recipe.dtype == "float64":
        raise ValueError("mps has no float64: take --dtype=float32 or --device=cpu")
    return target


def opener(
    device: str = "auto",
    *,
    trust_pickle: bool = False,
    offline: bool = False,
    inference: Inference = UNSAID,
) -> Callable[[Recipe], Generation]:
    """`open_recipe` with these settings for many recipes; the last few files are kept open for the next ones.

    What memory held of networks is remembered for others that are as large; a rule that takes gradients needs more.
    """

    load = functools.lru_cache(maxsize=4)(open_network)  # a search over EMA lengths opens a hundred

    @functools.cache
    def memory(sizes: tuple[int, ...]) -> Memory:
        return Memory()

    stored = functools.lru_cache(maxsize=2)(StoredBase)
    return functools.partial(
        open_recipe, device=device, trust_pickle=trust_pickle, offline=offline, load=load, memory=memory, stored=stored,
        inference=inference,
    )  # fmt: skip


def _ref(model: Model | Classifier) -> NetworkRef:
    return NetworkRef(model.source, model.identity["sha256"], recorded_place(model.source))


def _with_files(recipe: Recipe, main: Model, guides: Sequence[Model | Classifier | None]) -> Recipe:
    """The recipe with the hash of each network's file."""
    pairs = zip(recipe.guides, guides, strict=True)
    known = tuple(spec if guide is None else replace(spec, net=_ref(guide)) for spec, guide in pairs)
    return replace(recipe, net=_ref(main), guides=known)


def _takes_prompts(model: Model | Classifier) -> bool:
    return isinstance(model, Model) and model.takes_prompts


def _check_prompts(recipe: Recipe, main: Model, guides: Sequence[Model | Classifier | None]) -> None:
    """ValueError for prompts that the main network does not take, nor what makes its base; and for none that it needs.

    Classes that are texts and classes that are not make no labels of one kind.
    """
    if recipe.prompts and not main.takes_prompts and not isinstance(recipe.base, Recipe):
        main.prompted(texts_of(recipe.prompts))  # which refuses them
    if main.takes_prompts and not recipe.prompts and recipe.labels != "none":
        raise ValueError(f"{main.source} draws what prompts say: give --prompt=TEXT, or --prompts=FILE")
    networks = [main, *(guide for guide in guides if guide is not None)]
    texts = next((each for each in networks if _takes_prompts(each)), None)
    classes = next((each for each in networks if not _takes_prompts(each) and each.num_classes > 0), None)
    if texts is not None and classes is not None:
        raise ValueError(
            f"{texts.source} takes prompts, and {classes.source} has {classes.num_classes} classes: no label says "
            "both; take networks that are told the same, or unconditional ones"
        )


def _opened_base(
    main: Model,
    base: Recipe | ImageSet | None,
    open_: Callable[[Recipe], Generation],
    stored: Callable[[str], StoredBase],
) -> Base | None:
    """Where the images come from that the main network enlarges; None for a network that takes none.

    ValueError for images that it does not take, and for none where it needs some.
    """
    size = main.low_res_size
    if base is None and size > 0:
        raise ValueError(f"{main.source} enlarges images of {size}x{size}: say which, --upsample=IMAGES or =PRESET")
    if base is None:
        return None
    if size == 0:
        raise ValueError(f"{main.source} enlarges no images: leave out --upsample, or name a network that does (--net)")
    if isinstance(base, Recipe):
        opened: Base = open_(base)
    else:
        opened = images = stored(base.source)
        _check_content(base, str(images.recipe.sha256), "--upsample=IMAGES")
    return opened


def _of_size(model: Any, base: Base) -> Any:
    """A network as it enlarges images of the base's size. ValueError for one of another size alone."""
    size = base.image_size
    if not isinstance(model, Model) or model.low_res_size in (0, size):
        return model
    try:
        return model.enlarging(size)
    except ValueError as error:
        raise ValueError(f"{base.recipe.name} has images of {size}x{size}, and {error}") from None


def _with_labels_of(base: Base, recipe: Recipe, labelled: Model | Classifier, notes: list[str]) -> Recipe:
    """The recipe, with the classes of the images that it enlarges.

    labelled: the network whose classes the labels are of. A class for all, or one prompt, may be given to stored images
    without. ValueError for images without classes, or of others than the networks know.
    """
    name, classes = base.recipe.name, labelled.num_classes
    given = isinstance(recipe.labels, int | ClassName)
    if base.image_classes == 0 and given:
        return _with_checked_labels(recipe, labelled, notes)
    if base.image_classes == 0 and classes > 0 and recipe.labels != "none":
        if isinstance(base.recipe, ImageSet) and len(recipe.prompts) == 1:
            return replace(recipe, labels=0)
        raise ValueError(
            f"{name} has images without classes, which {labelled.source} needs: take a set with labels, such as "
            "generate_zip.py writes, or give all images one class (--class)"
        )
    if given and base.label_rule == "stored":
        raise ValueError(f"the images of {name} have classes, which they keep: leave out --class")
    if base.image_classes > classes > 0:
        known = f"{base.image_classes} classes, {labelled.source} knows {classes}"
        cure = "give it all prompts that they have" if recipe.prompts else "take networks with the same classes"
        raise ValueError(f"{name} has images of {known}: {cure}")
    return recipe if recipe.labels == "none" else replace(recipe, labels=base.label_rule)


def _note_other_prompts(base: Base, recipe: Recipe, notes: list[str]) -> None:
    """Add to `notes` that stored images were drawn to other prompts than they are enlarged by."""
    drawn: Prompts = base.prompts if isinstance(base, StoredBase) else ()
    if drawn and recipe.prompts and prompts_sha256(drawn) != prompts_sha256(recipe.prompts):
        notes.append(
            f"{base.recipe.name} was drawn to {prompts_text(drawn)}, and is enlarged by {prompts_text(recipe.prompts)}"
        )


def _with_checked_labels(recipe: Recipe, labelled: Model | Classifier, notes: list[str]) -> Recipe:
    """The recipe, its label rule 'none' if there are no classes, a class given by name as its index.

    ValueError for a class that the network lacks. Adds to `notes` what may be taken for another class.
    """
    classes = labelled.num_classes
    names = None if labelled.class_names is None else labelled.class_names[:classes]
    if isinstance(recipe.labels, ClassName) and classes > 0:
        index = find_class(recipe.labels.text, names, labelled.source, classes)
        notes.append(f"--class={recipe.labels} is class {index}")
        return replace(recipe, labels=index)
    if isinstance(recipe.labels, int | ClassName) and not _is_index(recipe.labels, classes):
        hint = f"has classes 0 to {classes - 1}" if classes > 0 else "is unconditional: leave out --class"
        raise ValueError(f"class {recipe.labels}: {labelled.source} {hint}")
    if isinstance(recipe.labels, int) and names and str(recipe.labels) in names:
        named = names.index(str(recipe.labels))
        if named != recipe.labels:
            notes.append(f"class {recipe.labels} is the one of this index; the one named {recipe.labels} is {named}")
    return recipe if classes > 0 else replace(recipe, labels="none")


def _check_references(
    recipe: Recipe, main: Model, models: Sequence[Model | Classifier | None], notes: list[str]
) -> None:
    """ValueError for a reference or a rule that needs what its network does not know, or does not let through.

    Notes a rule that does nothing.
    """
    for guide, model in zip(recipe.guides, models, strict=True):
        asked = main if model is None else model
        if guide.reference.needs_labels and (asked.num_classes == 0 or recipe.labels == "none"):
            raise ValueError(f"the reference '{guide.reference}' needs classes, and {asked.source} knows none")
        if isinstance(asked, Model):
            guide.reference.check_network(asked)
    if recipe.rule.takes_gradient and "gradients" not in main.supports:
        raise ValueError(f"the rule {recipe.rule.kind} takes gradients, which {main.source} does not let through")
    of_networks = any(not guide.off and not guide.of_classifier for guide in recipe.guides)
    if of_networks:
        recipe.rule.check_shape(main.shape)
    elif recipe.rule != Rule.parse("linear") and any(not guide.off for guide in recipe.guides):
        notes.append(f"the rule {recipe.rule} is of networks that guide, and a classifier alone does: unused")
    elif recipe.rule != Rule.parse("linear") and not recipe.guides:  # w = 1 is a cell of most grids
        notes.append(f"the rule {recipe.rule} is of networks that guide, and none does: unused")
    told = [model for model in (main, *models) if isinstance(model, Model) and model.num_classes > 0]
    for each in recipe.around:
        if each.needs and (not told or recipe.labels == "none"):
            raise ValueError(f"{each.kind} is of images with classes, and these are made without")
        for model in told:
            if not each.needs <= model.supports:
                missing = ", ".join(sorted(each.needs - model.supports))
                raise ValueError(f"{each.kind} asks networks for {missing}, which {model.source} does not support")


def _for_guides_alone(recipe: Recipe, notes: list[str]) -> Recipe:
    """The recipe of an unconditional main network with a conditional guide, and a note.

    As in EDM2, no labels are drawn, and the guide runs without one; a class, or balanced ones, that are asked for
    are the guide's. For a classifier they are drawn: its images are of them.
    """
    if any(guide.of_classifier and not guide.off for guide in recipe.guides):
        notes.append("the main network is unconditional: the classes are the classifier's")
        return recipe
    if recipe.labels in ("random", "none"):
        notes.append("the main network is unconditional: its guide runs without a class, as in EDM2, unless --class=N")
        return replace(recipe, labels="none")
    notes.append("the main network is unconditional: the class is its guide's, not that of the images")
    return recipe


def _check_classes(recipe: Recipe, main: Model, guides: Sequence[Model | Classifier | None]) -> None:
    """ValueError for a network that denoises no image without a class, where there are none."""
    on = [model for spec, model in zip(recipe.guides, guides, strict=True) if not spec.off]
    for model in (main, *on):
        if recipe.labels == "none" and isinstance(model, Model) and model.needs_classes:
            raise ValueError(f"{model.source} was trained with classes alone: it denoises no image without one")


def _is_index(label: int | ClassName, classes: int) -> bool:
    return isinstance(label, int) and 0 <= label < classes


def _check_sampling(recipe: Recipe, main: Model, notes: list[str]) -> None:
    """ValueError for latents that would be held in the range of pixels. Notes a schedule of other networks."""
    latents = main.shape != (3, main.image_size, main.image_size)
    for each in recipe.around if latents else ():
        if each.of_pixels:
            raise ValueError(f"{each.kind} is of pixels, and {main.source} denoises latents, which have no range")
    if recipe.sampler.clips and latents:
        raise ValueError(
            f"the sampler {recipe.sampler} clips to the range of pixels, and {main.source} denoises latents: add "
            f"clip=false to it, --sampler={recipe.sampler}:clip=false"
        )
    betas = getattr(recipe.schedule, "betas", None)
    if betas is not None and main.betas not in (None, betas):
        notes.append(f"{main.source} was trained on {main.betas} betas, and the schedule has {betas} ones")
    if recipe.schedule.measured_on not in ("", main.identity["sha256"]):
        notes.append(f"the schedule {recipe.schedule.caption} was measured on another network than {main.source}")
