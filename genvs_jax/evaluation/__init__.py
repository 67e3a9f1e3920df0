"""Scores of scenes never trained on; `evaluate` puts the parts together.

protocol         which views are inputs and which are drawn
prediction       renders and samples of a group of scenes, on the devices
image_scores     every metric of a scene's pictures
scene_scores     a group of scenes: drawn, scored, written
rollout_scores   3D consistency of rollouts (`consistency`)
score_files      one file per scene, so that a run goes on where it stopped
summary, report  means over views, then scenes; table and grid
"""
