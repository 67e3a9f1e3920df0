"""Parts of `--mode=evaluate`, which `genvs_jax.evaluate` puts together.

protocol   which views are given and which are drawn
drawing    renders and samples of a group of scenes, on the devices
scorer     every metric of a scene's pictures
store      one file per scene, so that a run goes on where it stopped
summary    means over views, then scenes; the Markdown table
"""
