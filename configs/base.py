"""Every field of a run, with a neutral default, its unit and its meaning.

The sections follow the pipeline: scenes, networks, rendering, diffusion, what
is minimised and how, checkpoints and their use, the machine. The other files
of this folder are recipes: they set fields of this one and add none. Any field
can be set on the command line, `--config.train.steps=1000`. What each field
decides (what the weights mean, how a run trains, what is drawn ...) stands in
`genvs_jax/config_fields.py`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The schema; see `cars64.py` for the flagship recipe."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # of initialisation, data order and all noise
  # What `launch.py` does, in this order, when --mode is not given.
  config.modes = ("train",)

  # Scenes and their views.
  data = config.data = ml_collections.ConfigDict()
  data.dataset = "folder"  # see docs/data.md
  # Added to the prepared dataset's name, which tells two of a kind apart; "":
  # a folder is named by its source.
  data.name = ""
  # Where prepared datasets live. "" means $TFDS_DATA_DIR, else
  # ~/tensorflow_datasets; "WORKDIR/..." starts at --workdir.
  data.data_dir = ""
  # For --mode=prepare: folder, or zip files separated by commas, in SRN layout
  # or of 3D models; synthetic_cars writes there ("" = beside the dataset).
  data.source = ""
  # For --mode=prepare: URL, or Google Drive file id, of a zip to fetch.
  data.url = ""
  data.near = 0.0  # of folder and nerf, world units; 0: by cameras' distance
  data.far = 0.0  # as data.near
  data.stored_size = 0  # --mode=prepare: most pixels a side; 0: as it is
  data.workers = 0  # processes that decode images; 0 = threads alone
  # That read and decode, each a batch at a time; 0: a core each, at most 8.
  data.threads = 0
  # Batches made ahead: enough for the time that a checkpoint takes the cores.
  data.prefetch = 16
  synthetic = data.synthetic = ml_collections.ConfigDict()
  synthetic.train_scenes = 500
  synthetic.validation_scenes = 24
  synthetic.test_scenes = 24
  synthetic.views = 50  # per train and validation scene; test scenes have 251
  synthetic.image_size = 128  # pixels
  synthetic.seed = 0
  synthetic.markings = True  # and the other contrast of real cars
  # dataset "meshes": scenes rendered from the 3D models of data.source.
  meshes = data.meshes = ml_collections.ConfigDict()
  meshes.image_size = 128  # pixels
  meshes.views = 50  # per train and validation scene; test scenes have 251
  meshes.region = "sphere"  # where cameras stand: sphere, or its upper half
  meshes.distance = 1.3  # of them from the object, whose diagonal is 1
  # Axis that points up: x, y, z; auto is y for glTF and OBJ, z for the others.
  meshes.up = "auto"
  meshes.crease = 35.0  # degrees; edges that bend more are sharp
  # x, y, z and strength of each light, which stands still in the world.
  meshes.lights = ((0.35, 0.25, 0.90, 0.38),)
  meshes.ambient = 0.62  # what every surface gets
  # Rays by which corners are darkened; 0 for none. With 16 a view takes two to
  # three times as long.
  meshes.occlusion_rays = 0
  # File with lines like "train chairs_oak"; models it does not name are left
  # out. "": chosen by the seed.
  meshes.splits = ""
  meshes.held_out = 0.1  # share for validation, and again for test
  meshes.seed = 0  # of cameras and splits

  # Changes of training scenes, pictures together with their cameras.
  augment = config.augment = ml_collections.ConfigDict()
  augment.mirror = 0.0  # probability of the mirrored scene
  augment.roll = 0.0  # degrees that a camera turns around its axis, at most
  augment.focal = 0.0  # log of a camera's focal length, plus or minus
  augment.scale = 0.0  # log of the scene's size and its cameras' distance
  augment.hue = 0.0  # degrees that a scene's colours turn around grey, at most
  augment.gamma = 0.0  # log of the exponent of a scene's colours
  # Probability of a colour behind the object in the input views, where
  # pictures have an alpha channel; it is drawn on white all the same.
  augment.background = 0.0

  # The three networks: encoder, radiance field, denoiser.
  model = config.model = ml_collections.ConfigDict()
  model.image_size = 64  # H = W in pixels, a multiple of 32
  # How stored images become that size: area, bicubic or stride (every n-th
  # pixel, as the reference does at 64).
  model.resize = "area"
  model.image_range = (0.0, 1.0)  # of images inside the model; or (-1, 1)
  model.input_views = 2  # V, the most input views of a scene
  model.volume_channels = 16  # C
  model.depth_planes = 64  # D
  model.feature_channels = 16  # F; the first three are RGB
  model.dtype = "float32"  # networks compute in it: float32 or bfloat16
  # Of float32 products and convolutions: "default" is what a device is fast at
  # (TF32 on GPUs, bfloat16 passes on TPUs; float32 on CPUs), "highest" float32
  # everywhere, which parity with the reference needs. Geometry is always exact.
  model.precision = "default"  # default, high or highest
  encoder = model.encoder = ml_collections.ConfigDict()
  encoder.name = "resnet34_unet"  # or deeplabv3plus
  # "batch", "frozen" (stored statistics, as ImageNet weights bring them) or
  # "none"; the decoder of deeplabv3plus never has any.
  encoder.norm = "batch"
  encoder.trunk_width = 64  # channels of ResNet's first stage
  encoder.stage_sizes = (3, 4, 6, 3)  # ResNet34
  encoder.decoder_width = 512  # resnet34_unet only
  # Compute blocks again in the backward pass: less memory, more time.
  encoder.remat = False
  # A fourth channel tells it the noise (`objective.input_noise_max`).
  encoder.noise_told = False
  encoder.image_skip = False  # adds the image to its volume's RGB (field.skip)
  field = model.field = ml_collections.ConfigDict()
  field.width = 64
  field.depth = 1  # hidden layers
  field.activation = "softplus"
  field.density_activation = "softplus"
  field.feature_activation = "sigmoid"
  # Volume features are added to the rendered ones: colours pass from the
  # start. It needs C = F; the reference has none.
  field.skip = True
  field.aggregate = "after"  # views are averaged "before" or "after" the MLP
  denoiser = model.denoiser = ml_collections.ConfigDict()
  denoiser.name = "image_v1"  # or ddpmpp
  denoiser.channels = (128, 256, 512, 512)  # outermost level first
  denoiser.depths = (2, 2, 4, 4)  # residual blocks per level
  denoiser.attention = (False, False, True, True)
  denoiser.embedding = 256  # width of the conditioning vector
  denoiser.conditional = True  # takes feature images; False draws any object
  denoiser.dropout = 0.05  # of whole channels (ddpmpp: of single values)
  denoiser.augmentation = True  # ddpmpp only: takes the augmentation labels
  # Beside the features it takes some of: directions (of the pixels' rays) or
  # pluecker (their moments too), depth, opacity; as ("depth", "opacity").
  denoiser.geometry = ()
  # Levels with self-attention attend to the pictures of the input views too.
  denoiser.cross_views = False
  denoiser.remat = False  # as encoder.remat

  # The volume that an input view is lifted to, in front of its camera.
  frustum = config.frustum = ml_collections.ConfigDict()
  frustum.kind = "near_far"  # or unit_cube, the reference's
  frustum.near = 0.8  # world units; unit_cube ignores near and far
  frustum.far = 1.8
  # "config": near and far hold for all scenes; "scene": each has its own, from
  # the dataset (near_far only).
  frustum.bounds = "config"
  frustum.min_near = 0.5  # unit_cube: rays start no nearer than this
  frustum.flip_input = False  # encoder sees the image upside down (reference)

  # The feature image of a target view.
  rendering = config.rendering = ml_collections.ConfigDict()
  rendering.size = 64  # h = w in pixels of the feature render
  rendering.coarse_samples = 64  # per ray
  rendering.fine_samples = 64  # per ray, where the first pass met something
  rendering.rays_per_chunk = 1024  # per scene, bounds memory; 0 = all at once
  rendering.upsampling = "bilinear"  # of the features; the reference: nearest

  diffusion = config.diffusion = ml_collections.ConfigDict()
  # What the denoiser draws: the "image", or the "residual" that the RGB render
  # lacks of it; sampling then starts from the render.
  diffusion.target = "image"
  # Standard deviation of what is drawn. 0: measured when the denoiser's stage
  # starts (as are the two below), and kept in its checkpoints.
  diffusion.sigma_data = 0.5
  # The denoiser takes (features - mean) / std.
  diffusion.feature_mean = 0.0
  diffusion.feature_std = 1.0
  # Noise levels of training and of the sampler are in units of the "image", or
  # multiples of "sigma_data".
  diffusion.units = "image"
  # Training noise: log sigma ~ N(mean, std). At high noise only the features
  # tell what to draw, so the denoiser learns to trust them.
  diffusion.log_mean = 1.0
  diffusion.log_std = 1.4
  # Where mean and std move to: ((step, mean, std), ...), linear in between.
  # The reference went from (1.0, 1.4) to (0.5, 1.4) to (-1.2, 1.2).
  diffusion.schedule = ()
  # What dropped features become: "normal" noise, or "uniform" (reference).
  diffusion.null_noise = "normal"

  # What a train step minimises.
  objective = config.objective = ml_collections.ConfigDict()
  # joint, nerf (encoder and field alone) or diffusion (the denoiser alone)
  objective.name = "joint"
  objective.denoising = 1.0  # weight of the denoising loss
  # Weight of a perceptual distance between the denoiser's estimate and the
  # truth, by networks of evaluate.metric_weights.
  objective.perceptual = 0.0
  objective.perceptual_metric = "lpips_alex"  # or lpips_vgg, dists
  # "learned": the network's log-variance weighs noise levels; "edm": EDM's
  # weights, which are plain squared error of the preconditioned network.
  objective.weighting = "learned"
  objective.rgb = 1.0  # of the squared error of the first three channels
  objective.rgb_input = 0.0  # the same for the first input view, if above 0
  # Renders the first input view for the other losses too, as rgb_input does.
  objective.render_input = False
  objective.opacity = 0.001  # of the mean opacity
  # Of opacity times (expected depth - camera's distance from the origin)^2.
  objective.depth_prior = 0.0
  # Of the squared difference between the render and one from the last input
  # view alone, which takes no gradient; needs 2 input views.
  objective.depth_consistency = 0.0
  objective.opacity_consistency = 0.0  # the same of opacity instead of depth
  # Poses become relative to the first view, and so unit_cube (reference).
  objective.first_view_world = False
  # Share of examples whose target and features are warped, with labels for
  # the denoiser, ...
  objective.augmentation = 0.0
  # ... and the probability of each kind of warp in them; half are mirrored.
  objective.augmentation_probability = 0.1
  objective.input_noise_probability = 0.5  # per input image
  objective.input_noise_max = 1.0  # std ~ U(0, max), ImageNet-normalised units
  objective.conditioning_dropout = 0.1  # features -> noise, per example
  # Share of the denoiser's gradient that reaches encoder and field, ...
  objective.feature_gradient = 1.0
  # ... through all of the "render", or not through RGB and density: "features".
  objective.gradient_reaches = "render"

  optimizer = config.optimizer = ml_collections.ConfigDict()
  optimizer.encoder_rate = 1e-4  # AdamW learning rate, one per part
  optimizer.field_rate = 2e-4
  optimizer.denoiser_rate = 2e-4
  optimizer.frozen = ()  # parts that are not trained, say ("encoder",)
  optimizer.warmup = 1_000  # steps of linear warm-up
  # constant, cosine (down to final_rate once) or cosine_restarts
  optimizer.schedule = "constant"
  optimizer.period = 500_000  # steps of one cosine; 0: all of the stage's
  optimizer.final_rate = 1e-8
  optimizer.b1 = 0.9
  optimizer.b2 = 0.99
  optimizer.eps = 1e-8
  optimizer.weight_decay = 1e-2  # decoupled, times the learning rate
  optimizer.clip_norm = 1.0  # of the gradient over all parts

  # Checkpoints (workdirs, or folders in them) that parts start from; "" starts
  # fresh. Used by a run that has no checkpoint of its own yet.
  init_from = config.init_from = ml_collections.ConfigDict()
  init_from.encoder = ""
  init_from.field = ""
  init_from.denoiser = ""
  init_from.params = "ema"  # the averaged parameters, or "raw"

  train = config.train = ml_collections.ConfigDict()
  # Steps of a first stage, encoder and field alone, in WORKDIR/render_stage;
  # they are frozen afterwards. 0: no such stage.
  train.render_steps = 0
  # Steps of a stage before that one, with a single input view, in
  # WORKDIR/one_view_stage.
  train.one_view_steps = 0
  train.steps = 500_000
  train.batch_size = 32  # scenes per step over all devices
  train.target_views = 1  # T per scene
  # Pieces that a batch is computed in, one after another, to save memory.
  train.accumulation = 1
  # Updates in a row that may be left out because the gradient is not finite;
  # the run then stops and saves the batch for debugging.
  train.max_skipped = 10
  train.ema = "half_life"  # or inverse_power, k-diffusion's, or none
  train.ema_half_life = 500_000  # images
  train.ema_ramp_up = 0.05  # half-life is at most this share of images seen
  train.ema_power = 2 / 3  # inverse_power: decay 1 - (1 + steps)^-power ...
  train.ema_max_decay = 0.9999  # ... and at most this
  train.log_every = 100  # steps
  train.image_grid_every = 5_000  # steps between grids of pictures
  train.image_grid_scenes = 4  # rows of a grid
  train.profile = ()  # (first, last) step to record with jax.profiler

  checkpoint = config.checkpoint = ml_collections.ConfigDict()
  checkpoint.every = 5_000  # steps
  checkpoint.keep_latest = 2
  checkpoint.keep_every = 100_000  # steps; these are never deleted
  # The best by this validation score is kept too: psnr_render (highest),
  # denoising_error (lowest), auto (the first that the objective has) or ""
  checkpoint.best_metric = "auto"

  # Scores of fixed scenes of the validation split, at every checkpoint.
  validation = config.validation = ml_collections.ConfigDict()
  validation.scenes = 8  # 0 for none
  validation.sigmas = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)  # image units

  # How a view is drawn.
  sampler = config.sampler = ml_collections.ConfigDict()
  # euler, heun, dpmpp_2m or renoise; docs/performance.md compares them.
  sampler.name = "euler"
  sampler.steps = 18
  sampler.sigma_min = 0.01  # in diffusion.units, as the interval below
  sampler.sigma_max = 80.0
  # Of euler and heun: gamma per step, at most sqrt(2)-1; 0 = deterministic.
  sampler.churn = 0.4
  sampler.noise_scale = 1.003  # of the noise that churn adds
  sampler.params = "ema"  # the averaged parameters, or "raw"
  # Weight of guidance, away from the estimate of no features (classifier-free)
  # or of a worse denoiser: 1 is none (one network evaluation instead of two).
  sampler.guidance = 1.0
  # Autoguidance: a checkpoint of the worse denoiser, an earlier or smaller one.
  sampler.guide = ""
  sampler.guidance_interval = (0.0, 1000.0)  # the sigmas at which it acts

  # Frames of a path are conditioned on the input views and on ...
  rollout = config.rollout = ml_collections.ConfigDict()
  # input: nothing else. reference: random earlier frames and the last one.
  # nearest: the views nearest in angle. anchors: the nearest of the inputs and
  # of a few far-apart frames, which are drawn first. stochastic: one view,
  # input or frame, at each denoising step.
  rollout.policy = "reference"
  rollout.random_views = 4  # of policy reference
  rollout.nearest_views = 5  # of policies nearest and anchors, inputs included
  rollout.anchors = 6  # of policy anchors
  # 2: every frame is drawn again, given all others.
  rollout.passes = 1
  # own: each frame has noise of its own. screen, surface: all of a scene share
  # it, standing still on the screen or sticking to what they show.
  rollout.noise = "own"
  # Noise that drawn views are said to have, in units of input_noise_max; needs
  # model.encoder.noise_told.
  rollout.drawn_noise = 0.0
  # Memory for the encoded views of all scenes; beyond it the oldest frames are
  # encoded again when they are picked.
  rollout.bank_gib = 4.0
  rollout.bank_dtype = "float32"  # or bfloat16

  # --mode=sample.
  sample = config.sample = ml_collections.ConfigDict()
  sample.split = "validation"
  sample.scene = 0  # index in the split
  sample.scenes = 1  # as many from that one on, side by side over the devices
  # Indices of the input views; () is the first of a scene, and all pictures of
  # --images.
  sample.input_views = ()
  # orbit, srn_spiral, reference_spiral, reference_spiral_2, or a file of poses
  # (.npy, or .npz with `poses`): [frames,4,4] OpenCV camera-to-world
  sample.path = "orbit"
  sample.frames = 40
  sample.elevation = 30.0  # degrees, of the orbit
  sample.film = "side_by_side"  # input, sample and render; sample; render
  sample.fps = 12
  # Samples without an input view, of any object; a denoiser alone draws 8.
  sample.unconditional = 0
  sample.trajectories = ()  # frames whose denoising is filmed: (0,)
  # Of --export: what colours the points, samples or renders.
  sample.point_colours = "samples"
  sample.mesh_resolution = 128  # points along each side
  # Density, per world unit, whose surface the mesh is; 0: the median density
  # at the points of the depth.
  sample.mesh_level = 0.0

  # How --images=DIR is understood, see docs/photos.md.
  photos = config.photos = ml_collections.ConfigDict()
  photos.fit = "pad"  # to a square with white, or "crop" to the middle
  photos.axes = "auto"  # opencv or opengl; by the layout
  photos.poses = "auto"  # camera_to_world or world_to_camera
  photos.scale = 1.0  # of camera positions
  photos.elevation = 20.0  # degrees; these three for a single picture
  photos.distance = 0.0  # world units; 0: that of the training data
  photos.fov = 0.0  # degrees, horizontal; 0: that of SRN, 52
  # What makes it white: alpha, the channel, if there is one; flood, a fill from
  # the border; or rembg, the package, if it is installed.
  photos.background = "alpha"

  # --mode=evaluate. Defaults are the protocol of SRN cars: one view in, all
  # others out.
  evaluate = config.evaluate = ml_collections.ConfigDict()
  evaluate.split = "test"
  evaluate.scenes = 0  # the first ones; 0 = all
  # Indices of the input views. Two views: (64, 104) in pixelNeRF, (64, 128) in
  # Splatter Image.
  evaluate.input_views = (64,)
  # File with lines "CLASS OBJECT VIEW", an input view of each object instead,
  # as in pixelNeRF's viewlist/src_dvr.txt; "" for none.
  evaluate.view_list = ""
  # What is scored: "others", all other views; "pixelnerf", its subset of
  # eleven; "spread", some spread over the sphere.
  evaluate.targets = "others"
  evaluate.spread_views = 8  # how many "spread" scores
  evaluate.min_angle = 30.0  # degrees from each of them to every input view
  evaluate.samples = 1  # k: the table shows one, the mean and the best of k
  # Also the mean training image, the nearest input view copied, and renders
  # from another scene's input.
  evaluate.baselines = False
  # Scenes that are rolled out along sample.path and scored for 3D consistency.
  evaluate.rollouts = 0
  evaluate.field_fit = True  # the slower of the two consistency scores too
  evaluate.pictures = False  # keep what was scored, in pixelNeRF's layout
  # Folder of converted LPIPS, DISTS and FID weights; "auto" is the user's cache
  # folder. Metrics without weights are left out.
  evaluate.metric_weights = "auto"
  evaluate.batch_size = 8  # scenes at a time, over the devices
  evaluate.batch_views = 8  # target views of each at a time

  # The devices are R x S: the state has R copies, each spread over S devices.
  mesh = config.mesh = ml_collections.ConfigDict()
  mesh.replicas = 0  # R; 0 for all devices / S
  mesh.shards = 1  # S; all devices for the least memory on each

  # Compiled programs are stored for the next start. "auto" is the user's cache
  # folder ($XDG_CACHE_HOME or ~/.cache)/genvs_jax, "" stores none;
  # $JAX_COMPILATION_CACHE_DIR, if set, goes before it.
  config.compilation_cache = "auto"
  config.compilation_cache_gib = 4.0  # the least recently used are deleted
  return config
