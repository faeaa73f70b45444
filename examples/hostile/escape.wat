;; Tries to leave its two directories: upwards, by an absolute path, through a link that it makes itself.
;; Status 0 is a way out; when every try is refused it says so and ends with status 1.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $link (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "../../../../../../etc/passwd")
  (data (i32.const 200) "/etc/passwd")
  (data (i32.const 300) "../../../../../../../etc")
  (data (i32.const 400) "way")
  (data (i32.const 500) "way/passwd")
  (data (i32.const 600) "every way out is closed\n")

  ;; 1 when the path could be opened from the directory, following links
  (func $opens (param $directory i32) (param $path i32) (param $length i32) (result i32)
    (i32.eqz
      (call $open (local.get $directory) (i32.const 1) (local.get $path) (local.get $length) (i32.const 0)
        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0))))

  (func (export "_start")
    (local $ways i32)
    (drop (call $link (i32.const 300) (i32.const 24) (i32.const 4) (i32.const 400) (i32.const 3)))
    (local.set $ways
      (i32.add
        (i32.add
          (i32.add (call $opens (i32.const 3) (i32.const 100) (i32.const 28))
                   (call $opens (i32.const 4) (i32.const 100) (i32.const 28)))
          (i32.add (call $opens (i32.const 3) (i32.const 200) (i32.const 11))
                   (call $opens (i32.const 4) (i32.const 200) (i32.const 11))))
        (call $opens (i32.const 4) (i32.const 500) (i32.const 10))))
    (if (local.get $ways) (then (call $exit (i32.const 0))))
    (i32.store (i32.const 0) (i32.const 600))
    (i32.store (i32.const 4) (i32.const 24))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 1))))
