use ptxvm_suite::{Device, Random, assert_close, assert_equal, function, launch};

#[test]
fn jacobi_steps_equal_the_formula_and_keep_the_border() {
    let device = Device::new();
    let kernel = device.kernel("stencil", "jacobi_2d");
    for (width, height) in [(3, 3), (16, 16), (35, 50), (65, 17)] {
        let mut input = Random::new((width + height) as u64).units(width * height);
        let mut from = device.upload(&input);
        let mut to = device.poisoned::<f32>(width * height);
        let grid = (width.div_ceil(16) as u32, height.div_ceil(16) as u32, 1);
        for _ in 0..3 {
            launch!(device.stream, kernel, grid, (16, 16, 1), 0; &from, &mut to, &(width as i32), &(height as i32));
            std::mem::swap(&mut from, &mut to);
            let before = input.clone();
            for y in 1..height - 1 {
                for x in 1..width - 1 {
                    let at = y * width + x;
                    input[at] = 0.25 * (before[at - width] + before[at + width] + before[at - 1] + before[at + 1]);
                }
            }
        }
        assert_equal("jacobi_2d", &device.download(&from), &input);
    }
}

#[test]
fn seven_point_stencil_marches_through_a_volume() {
    let device = Device::new();
    let kernel = device.kernel("stencil", "stencil_3d");
    for (nx, ny, nz) in [(3, 3, 3), (17, 9, 12), (33, 10, 5)] {
        let input = Random::new((nx * ny * nz) as u64).units(nx * ny * nz);
        let on_input = device.upload(&input);
        let mut out = device.zeros::<f32>(nx * ny * nz);
        let grid = (nx.div_ceil(16) as u32, ny.div_ceil(4) as u32, 1);
        launch!(device.stream, kernel, grid, (16, 4, 1), 0;
            &on_input, &mut out, &(nx as i32), &(ny as i32), &(nz as i32), &0.4f32, &0.1f32);
        let v = |i: usize| f64::from(input[i]);
        let expected: Vec<f64> = (0..nx * ny * nz)
            .map(|i| {
                let (x, y, z) = (i % nx, i / nx % ny, i / nx / ny);
                let border = x == 0 || y == 0 || z == 0 || x == nx - 1 || y == ny - 1 || z == nz - 1;
                let plane = nx * ny;
                let sides = || v(i - 1) + v(i + 1) + v(i - nx) + v(i + nx) + v(i - plane) + v(i + plane);
                if border { 0.0 } else { 0.4 * v(i) + 0.1 * sides() }
            })
            .collect();
        assert_close("stencil_3d", &device.download(&out), &expected, 1e-6);
    }
}

#[test]
fn row_convolution_reads_its_taps_from_constant_memory() {
    let device = Device::new();
    let module = device.module("stencil");
    let kernel = function(&module, "convolve_rows");
    let taps: Vec<f32> = (0..17).map(|i| (i as f32 - 5.0) / 17.0).collect();
    let mut on_taps = module.get_global("taps", &device.stream).expect("the constant");
    // SAFETY: any bits are an f32.
    let mut on_taps = unsafe { on_taps.transmute_mut::<f32>(17) }.expect("17 taps");
    device.stream.memcpy_htod(&taps, &mut on_taps).expect("copy to constant memory");
    for (width, height) in [(1, 1), (128, 2), (300, 3)] {
        let input = Random::new(width as u64).units(width * height);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<f32>(width * height);
        let grid = (width.div_ceil(128) as u32, height as u32, 1);
        launch!(device.stream, kernel, grid, (128, 1, 1), 0; &on_input, &mut out, &(width as i32), &(height as i32));
        let expected: Vec<f64> = (0..width * height)
            .map(|i| {
                let (x, y) = ((i % width) as isize, i / width);
                (0..17)
                    .filter(|&tap| (0..width as isize).contains(&(x + tap - 8)))
                    .map(|tap| f64::from(taps[tap as usize]) * f64::from(input[y * width + (x + tap - 8) as usize]))
                    .sum()
            })
            .collect();
        assert_close("convolve_rows", &device.download(&out), &expected, 1e-5);
    }
}

#[test]
fn depthwise_convolution_has_zero_borders() {
    let device = Device::new();
    let kernel = device.kernel("stencil", "depthwise_3x3");
    for (height, width, channels) in [(1, 1, 1), (7, 9, 5), (16, 16, 8)] {
        let mut random = Random::new(channels as u64);
        let (input, weights) = (random.units(height * width * channels), random.units(9 * channels));
        let (on_input, on_weights) = (device.upload(&input), device.upload(&weights));
        let mut out = device.poisoned::<f32>(input.len());
        launch!(device.stream, kernel, (2, 1, 1), (128, 1, 1), 0;
            &on_input, &on_weights, &mut out, &(height as i32), &(width as i32), &(channels as i32));
        let expected: Vec<f64> = (0..input.len())
            .map(|i| {
                let (c, x, y) = (i % channels, i / channels % width, i / channels / width);
                let mut sum = 0.0;
                for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                    let (sy, sx) = ((y + dy).wrapping_sub(1), (x + dx).wrapping_sub(1));
                    if sy < height && sx < width {
                        let value = input[(sy * width + sx) * channels + c];
                        sum += f64::from(value) * f64::from(weights[(dy * 3 + dx) * channels + c]);
                    }
                }
                sum
            })
            .collect();
        assert_close("depthwise_3x3", &device.download(&out), &expected, 1e-6);
    }
}

#[test]
fn bilinear_upsampling_interpolates_between_pixel_centres() {
    let device = Device::new();
    let kernel = device.kernel("stencil", "upsample_bilinear_2x");
    for (height, width) in [(1, 1), (5, 7), (20, 33)] {
        let input = Random::new((height * width) as u64).units(height * width);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<f32>(4 * height * width);
        let grid = ((2 * width).div_ceil(32) as u32, (2 * height).div_ceil(4) as u32, 1);
        launch!(device.stream, kernel, grid, (32, 4, 1), 0; &on_input, &mut out, &(height as i32), &(width as i32));
        let source = |at: usize, length: usize| {
            let place = (0.5 * (at as f64 + 0.5) - 0.5).max(0.0);
            let low = place.floor() as usize;
            (low, (low + 1).min(length - 1), place - place.floor())
        };
        let expected: Vec<f64> = (0..4 * height * width)
            .map(|i| {
                let (y0, y1, fy) = source(i / (2 * width), height);
                let (x0, x1, fx) = source(i % (2 * width), width);
                let v = |y: usize, x: usize| f64::from(input[y * width + x]);
                (v(y0, x0) * (1.0 - fx) + v(y0, x1) * fx) * (1.0 - fy) + (v(y1, x0) * (1.0 - fx) + v(y1, x1) * fx) * fy
            })
            .collect();
        assert_close("upsample_bilinear_2x", &device.download(&out), &expected, 1e-6);
    }
}
