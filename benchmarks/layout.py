"""Networks on images at batch 1: burnish with its layout passes and without, PyTorch, and ONNX Runtime alone.

    python benchmarks/layout.py [NETWORK ...] [--repeats N] [--threads N]

One interleaved run; medians of milliseconds. PyTorch and ONNX Runtime get as many threads as there are processors. A
repetition during which other processes took more than a small share of the machine does not count.

What was found here (2 cores of a Xeon with AVX-512, onnxruntime 1.32, torch 2.13; CPU time of one thread, the least of
15, since the machine was shared: for the order of things, not as results):

    ms                        ResNet-50   MobileNetV3   ConvNeXt   U-Net
    eager, channels first          89          14.9         96       237
    eager, channels last           81          10.8         86       183
    torch.compile, ch. last        75           9.8         84       169
      with weights packed          65             -         74         -
    ONNX Runtime, exported         55           5.0         78       160
      without its NCHWc            74             -        120         -
    burnish before this            80           5.1         79       229
    burnish                        56           5.0         78       160

- ONNX Runtime's CPU provider has no convolution of floats in NHWC (`NhwcFusedConv` is there for integers, half
  precision and Arm alone): channels-last convolutions would be two transposes each. Its own blocked layout, NCHWc,
  which it takes at load time, is faster than oneDNN's channels-last ones on each of these, so that no region of a graph
  is worth running by PyTorch. What is left for a compiler is to write graphs in which it can stay in blocks.
- It could not: a convolution without bias was given one of zeros, computed from a shape, and nothing was folded into
  it nor blocked. That was 1.4 times on ResNet-50 and on U-Net. It takes pools by their own operators only, too.
- It absorbs a transpose right before or behind a blocked convolution (`channels_last` of its reorders), so that a
  network that is channels-last between its convolutions, as ConvNeXt mostly is, pays one copy at each border and no
  more. All transposes and reorders of ConvNeXt are 2.5 of 78 ms, though; products and GELU are 70.
"""
