"""Network parts that know no task: attention, rotary angles, layers, convolutions on the sphere."""
