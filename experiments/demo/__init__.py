"""The main job in minutes: do unlabeled sites gain from federated pseudo-labels?"""
