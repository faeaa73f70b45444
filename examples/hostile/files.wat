;; Makes one file after another in /out.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (local $count i32)
    (local $at i32)
    (loop $more
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      ;; a name of its own for each: eight letters, one for every four bits of the count
      (local.set $at (i32.const 0))
      (loop $letters
        (i32.store8 (i32.add (i32.const 64) (local.get $at))
          (i32.add (i32.const 97)
            (i32.and (i32.const 15)
              (i32.shr_u (local.get $count) (i32.shl (local.get $at) (i32.const 2))))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $letters (i32.lt_u (local.get $at) (i32.const 8))))
      ;; the second directory is /out; create, write
      (if (i32.eqz
            (call $open (i32.const 4) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 1)
              (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 128)))
        (then (drop (call $close (i32.load (i32.const 128))))))
      (br $more))))
