// Sign a payload by jwt-on-kms as its documentation shows it, and let it verify the token and a changed one.
// The library prints what it signs; the last line is what the test reads.
const { sign, verify } = require("jwt-on-kms");

async function main(keyId) {
  const token = await sign({ hello: "world" }, keyId);
  const [head, , signature] = token.split(".");
  const other = Buffer.from('{"hello":"mallory"}').toString("base64url");
  const [good, bad] = [await verify(token, keyId), await verify([head, other, signature].join("."), keyId)];
  console.log(JSON.stringify({ token, good, bad }));
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
