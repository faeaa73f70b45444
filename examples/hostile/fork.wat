;; Would start processes without end, where a host had such a call.
(module
  (import "wasix_32v1" "proc_fork" (func $fork (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $again
      (drop (call $fork (i32.const 1) (i32.const 0)))
      (br $again))))
