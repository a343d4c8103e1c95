// node-forge as a peer: node forge.js sign|encrypt|decrypt FILE...
'use strict';
const fs = require('fs');
const forge = require('node-forge');

const read = (file) => fs.readFileSync(file).toString('binary');
const write = (file, text) => fs.writeFileSync(file, Buffer.from(text, 'binary'));
const certificate = (file) => forge.pki.certificateFromPem(fs.readFileSync(file, 'utf8'));
const key = (file) => forge.pki.privateKeyFromPem(fs.readFileSync(file, 'utf8'));
const encoded = (p7) => forge.asn1.toDer(p7.toAsn1()).getBytes();

const commands = {
  sign(keyFile, certificateFile, digest, input, output) {
    const p7 = forge.pkcs7.createSignedData();
    const signer = certificate(certificateFile);
    p7.content = forge.util.createBuffer(read(input));
    p7.addCertificate(signer);
    p7.addSigner({
      key: key(keyFile),
      certificate: signer,
      digestAlgorithm: forge.pki.oids[digest],
      authenticatedAttributes: [
        { type: forge.pki.oids.contentType, value: forge.pki.oids.data },
        { type: forge.pki.oids.messageDigest },
        { type: forge.pki.oids.signingTime, value: new Date() },
      ],
    });
    p7.sign({ detached: true });
    write(output, encoded(p7));
  },
  encrypt(cipher, certificateFile, input, output) {
    const p7 = forge.pkcs7.createEnvelopedData();
    p7.addRecipient(certificate(certificateFile));
    p7.content = forge.util.createBuffer(read(input));
    p7.encrypt(undefined, forge.pki.oids[cipher]);
    write(output, encoded(p7));
  },
  decrypt(keyFile, certificateFile, input, output) {
    const p7 = forge.pkcs7.messageFromAsn1(forge.asn1.fromDer(read(input)));
    p7.decrypt(p7.findRecipient(certificate(certificateFile)), key(keyFile));
    write(output, p7.content.getBytes());
  },
};

const [command, ...words] = process.argv.slice(2);
commands[command](...words);
