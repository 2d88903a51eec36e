"""What LitStage2 asks of Stage2, without a Q-Former: an image's soft prompt is two of its values."""

from torch import nn


class Stage2Stub(nn.Module):
    """Its `language` and `objective` are given."""

    prompt, frozen = "", True

    def __init__(self, language, objective):
        super().__init__()
        self.language, self.objective = language, objective

    def load(self, vision: bool) -> None:
        pass

    def vision(self, images_BCHW):
        values_BP = images_BCHW.flatten(1)
        middle = values_BP.shape[1] // 3 + 1  # the corners are all alike
        return values_BP[:, None, middle : middle + 2]

    def read(self, prompts):
        return None

    def soft_prompts(self, features_BND, prompts, image_R=None):
        return features_BND if image_R is None else features_BND[image_R]
