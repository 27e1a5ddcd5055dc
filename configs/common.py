"""What every recipe starts from. A recipe sets what differs; `--config.FIELD=VALUE` overrides any field."""

from ml_collections import ConfigDict, config_dict


def base(method: str) -> ConfigDict:
    """Return the fields of a run with their defaults, for a method of `ssl_jax.methods`."""
    c = ConfigDict()
    c.method = method  # `ssl-jax methods` lists them
    c.method_args = ConfigDict()  # keyword arguments of the method's factory
    c.encoder = "resnet50"  # a name of ssl_jax.nets, or in the config's own file (docs/howto.md)
    c.encoder_args = ConfigDict()  # fields of the encoder's module
    c.weights = config_dict.placeholder(str)  # a file that the encoder begins with (docs/howto.md)
    c.lengthen = config_dict.placeholder(str)  # workdir of a shorter run to go on from (docs/howto.md)
    c.dtype = "float32"  # of the encoder's arithmetic: float32 or bfloat16

    c.data = "tfds:imagenet2012"  # folder:PATH, tar:PATTERN, tfds:NAME, ... (docs/data.md)
    c.train_split = "train"  # or a part: train[:10%], train[@ids.txt] (docs/data.md)
    c.test_split = "test"  # only evaluation looks at it
    c.data_dir = config_dict.placeholder(str)  # where the data is, if not in its usual place
    c.image_size = 256  # host side: shorter side and centre square in pixels; 0 keeps the native size
    c.channels = 0  # 1 or 3; 0 takes the images' own
    c.view_size = 224  # what the network sees, in pixels; 0 is the image size
    c.augment = "simclr"  # a recipe of ssl_jax.augment
    c.augment_args = ConfigDict()  # its keyword arguments
    c.host_crop = "auto"  # whether the host takes the crops (docs/input.md): yes, no, or auto: of large sets
    c.decoder = "auto"  # of these crops: pillow, fast, or auto for fast where it is installed
    c.normalize = "imagenet"  # mean and deviation: imagenet, data (measured) or none

    c.seed = 0  # of initialisation, order and views
    c.batch_size = 256  # of all devices together
    c.micro_batches = 1  # parts in which a batch goes through the encoder; the loss sees the whole (docs/scaling.md)
    c.accumulate = "no"  # yes averages the micro-batches' losses instead; forced does so where that is another loss
    c.epochs = 100.0  # times that each image is seen
    c.steps = config_dict.placeholder(int)  # takes the place of epochs
    c.optimizer = "sgd"  # sgd, adam, adamw, lars, lars_byol, lamb
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4})  # of ssl_jax.optim.create
    c.learning_rate = 0.03  # the peak, before the scaling; it belongs to the optimizer
    c.learning_rate_scaling = "none"  # none, linear (batch / 256) or sqrt of the batch
    c.warmup_epochs = 0.0  # in which the learning rate rises from 0
    c.schedule = "cosine"  # of the learning rate after the warm-up: cosine, drops or constant
    c.final_learning_rate = 0.0  # where a cosine ends
    c.drop_epochs = config_dict.placeholder(tuple)  # where it is multiplied by drop_factor
    c.drop_factor = 0.1  # of `drops`
    c.rounds = 1  # equal parts of the run, with `Method.refresh` between them; the rate's schedule is a part's

    # From here on nothing changes the training itself, so a run may be continued with other values.
    c.max_damaged = 0.01  # share of the images that may be damaged before the run stops
    c.sharding = "replicated"  # the state on every device, or split over them: fsdp (docs/scaling.md)
    c.sharding_rules = ()  # one's own before those: (("queue$", ("data",)), ...), patterns of paths and mesh axes
    c.model_parallel = 1  # devices that share wide layers; the others share the batch
    c.remat = "none"  # computed again for the gradient: blocks of ResNets and ViTs, or dots, all but their products
    c.log_every = 50  # steps between lines of progress and metrics
    c.checkpoint_every = 1000  # steps; the end is always saved
    c.keep_checkpoints = 2  # the newest
    c.max_collapsed = 0  # lines of progress in a row that look collapsed before the run stops; 0 only warns
    c.max_skipped_steps = 10  # in a row, not applied since loss or gradient is not finite, before the run stops
    c.probe = True  # online linear probe, where there are labels
    c.knn_every = 0  # steps between k-NN checks on training images; 0 is a fifth of the run, -1 never
    c.knn_bank = 5000  # training images among which neighbours are looked for
    c.knn_queries = 1000  # training images that are checked
    return c


def small_images(c: ConfigDict) -> ConfigDict:
    """Turn a recipe to Fashion-MNIST on a CPU: native size, a small network, statistics of the data."""
    c.encoder = "convnet"
    c.encoder_args = ConfigDict()
    c.data = "fashion_mnist"
    c.image_size = 0
    c.view_size = 0
    c.normalize = "data"
    return c


def fashion_mnist(c: ConfigDict) -> ConfigDict:
    """Turn a recipe to minutes of Fashion-MNIST on a CPU: the same small budget for every method."""
    c = small_images(c)
    c.augment_args = ConfigDict({"strength": 1.0, "blur": False, "crop_scale": (0.4, 1.0), "erase_prob": 0.5})
    c.augment = "simclr"
    c.batch_size = 256
    c.steps = 400
    c.optimizer = "adamw"
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4})
    c.learning_rate = 3e-3
    c.learning_rate_scaling = "none"
    c.warmup_epochs = 0.25
    c.log_every = 20
    c.checkpoint_every = 200
    return c


def cifar10(c: ConfigDict) -> ConfigDict:
    """Turn a recipe to CIFAR-10 as most papers do: ResNet-18 with a stem for small images, views of 32 pixels, no blur.

    Needs the data prepared (docs/data.md); numbers of training are the recipe's own.
    """
    c.encoder = "resnet18"
    c.encoder_args.stem = "small"
    c.data = "tfds:cifar10"
    c.image_size = 32
    c.view_size = 32
    c.normalize = "data"
    c.batch_size = 512
    c.warmup_epochs = 0.0
    return c


def photos(c: ConfigDict) -> ConfigDict:
    """Turn a recipe to patches of eight photographs in colour, 32 x 32: the budget of `fashion_mnist`.

    Needs scikit-image for its photographs; `--config.data=photos` does without, on two.
    """
    c = fashion_mnist(c)
    c.data = "photos:skimage"
    return c


def test(c: ConfigDict) -> ConfigDict:
    """Turn a recipe to one that runs in seconds on a CPU: scikit-learn's digits, a tiny network, a few steps."""
    c = small_images(c)
    c.data = "digits"
    c.encoder_args = ConfigDict({"widths": (8, 16)})
    c.batch_size = 64
    c.steps = 20
    c.learning_rate_scaling = "none"
    c.optimizer = "adamw"
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4})
    c.learning_rate = 1e-3
    c.warmup_epochs = 0.0
    c.log_every = 10
    c.checkpoint_every = 10
    c.knn_bank, c.knn_queries = 500, 200
    return c


def epochs_of(variant: str, default: int) -> int:
    """Return the number in a variant such as `epochs100`; of other variants the default."""
    return int(variant.removeprefix("epochs")) if variant.startswith("epochs") else default


def parse(arg: str, *known: str) -> str:
    """Return the variant after the colon of `--config=NAME:VARIANT`, which must be one of `known` or empty."""
    if arg and arg not in known:
        raise ValueError(f"unknown variant {arg!r}; this config has {', '.join(known)}")
    return arg
