test("base64 becomes bytes", () => {
  assertEqual(bytesOfBase64("AAEC/w=="), [0, 1, 2, 255]);
  assertEqual(bytesOfBase64("AAEC\n/w==\n"), [0, 1, 2, 255]);
});

test("arrays are views of the blob", () => {
  const blob = new Uint8Array([1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64]).buffer;
  assertEqual(arrayView(blob, { dtype: "u2", shape: [1, 2], offset: 0 }), [1, 2]);
  assertEqual(arrayView(blob, { dtype: "f4", shape: [2], offset: 8 }), [1, 2]);
  assert(arrayView(blob, { dtype: "f4", shape: [2], offset: 8 }).buffer === blob);
  assertEqual(arrayView(blob, { dtype: "f8", shape: [0, 2], offset: 16 }), []);
  assertThrows(() => arrayView(blob, { dtype: "f2", shape: [1], offset: 0 }), "given f2");
});
