"""Operations on whole images and label maps: resampling, clean-up, surfaces."""
