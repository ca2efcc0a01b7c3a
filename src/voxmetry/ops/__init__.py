"""Operations on whole images and label maps: resampling, post-processing, surfaces."""
