// Functions of numbers: exported ones are called by name.

export function fibonacci(n: i32): i64 {
  let a: i64 = 0, b: i64 = 1;
  for (let i = 0; i < n; i++) {
    const next = a + b;
    a = b;
    b = next;
  }
  return a;
}

export function hypotenuse(a: f64, b: f64): f64 {
  return Math.sqrt(a * a + b * b);
}

export function mix(a: f32, b: f32, part: f32): f32 {
  return a + (b - a) * part;
}
