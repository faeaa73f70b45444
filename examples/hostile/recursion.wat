;; Calls itself until the stack is gone.
(module
  (memory (export "memory") 1)
  (func $down (param i64 i64 i64 i64) (result i64)
    (i64.add
      (local.get 0)
      (call $down (i64.add (local.get 0) (i64.const 1)) (local.get 1) (local.get 2) (local.get 3))))
  (func (export "_start")
    (drop (call $down (i64.const 0) (i64.const 1) (i64.const 2) (i64.const 3)))))
