;; Would start threads without end: the threads proposal and its call.
(module
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (memory (export "memory") 1 1 shared)
  (func (export "_start")
    (loop $again
      (drop (call $spawn (i32.const 0)))
      (br $again))))
