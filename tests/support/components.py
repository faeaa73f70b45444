"""Small components as text."""

MEMORY = """
  (core module $m
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local i32)
      (local.set 4 (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get 4) (local.get 3)))
      (local.get 4))
    (func (export "same") (param i32) (result i32) (local.get 0))
    (func (export "same-text") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1)) (i32.const 16))
    (func (export "ones") (param i32) (result i32)
      (i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (local.get 0)) (i32.const 16))
    (func (export "nothing"))
    (func (export "zero") (result i32) (i32.const 0))
    (func (export "trap") unreachable))
  (core instance $i (instantiate $m))"""
OPTIONS = '(memory (core memory $i "memory")) (realloc (core func $i "realloc"))'

EVERYTHING = f"""(component {MEMORY}
  (type $point' (record (field "x" s32) (field "note" (option string))))
  (export $point "point" (type $point'))
  (type $shape' (variant (case "circle" f32) (case "none") (case "size" u8) (case "on" bool)))
  (export $shape "shape" (type $shape'))
  (type $colour' (enum "red" "ok"))
  (export $colour "colour" (type $colour'))
  (type $mode' (flags "read" "write"))
  (export $mode "mode" (type $mode'))
  (type $all (tuple bool s8 u16 s64 u64 f32 f64 char string (list u8) (list string) $point (list $shape) $colour $mode
    (option (option u32)) (result u8 (error string)) (result) (tuple u8 (tuple string)) (option bool)))
  (func $same (param "v" $all) (result $all) (canon lift (core func $i "same") {OPTIONS}))
  (export "same" (func $same)))"""
"""``same`` gives back its argument, a tuple with a value of every type; so many are passed in memory."""

FUNCTIONS = f"""(component {MEMORY}
  (func $text (param "text" string) (result string) (canon lift (core func $i "same-text") {OPTIONS}))
  (func $same (param "a" s8) (result s8) (canon lift (core func $i "same")))
  (func $ones (param "count" u32) (result (list bool)) (canon lift (core func $i "ones") {OPTIONS}))
  (func $nothing (canon lift (core func $i "nothing")))
  (func $trap (canon lift (core func $i "trap")))
  (func $run (result (result)) (canon lift (core func $i "zero")))
  (export "greet" (func $text))
  (export "ones" (func $ones))
  (export "nothing" (func $nothing))
  (export "trap" (func $trap))
  (instance $run (export "run" (func $run)))
  (export "wasi:cli/run@0.2.3" (instance $run))
  (instance $api (export "same" (func $same)) (export "both" (func $same)))
  (export "demo:numbers/api@1.0.0" (instance $api))
  (instance $more (export "both" (func $same)))
  (export "demo:numbers/more@1.0.0" (instance $more)))"""

RESOURCE = f"""(component {MEMORY}
  (type $thing' (resource (rep i32)))
  (export $thing "thing" (type $thing'))
  (core func $make (canon resource.new $thing'))
  (core instance $j (export "make" (func $make)))
  (func $made (result (own $thing)) (canon lift (core func $i "zero")))
  (export "made" (func $made)))"""

SERVES = f"""(component {MEMORY}
  (func $handle (canon lift (core func $i "nothing")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.3" (instance $handler)))"""
