import java.io.BufferedReader;
import java.io.FileReader;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.X509Certificate;
import java.security.interfaces.ECPublicKey;
import java.security.spec.MGF1ParameterSpec;
import java.util.List;
import java.util.Map;
import javax.crypto.spec.OAEPParameterSpec;
import javax.crypto.spec.PSource;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.cms.CMSObjectIdentifiers;
import org.bouncycastle.asn1.cms.ContentInfo;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaCertStore;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.cms.CMSAlgorithm;
import org.bouncycastle.cms.CMSAuthEnvelopedData;
import org.bouncycastle.cms.CMSAuthEnvelopedDataGenerator;
import org.bouncycastle.cms.CMSEnvelopedData;
import org.bouncycastle.cms.CMSEnvelopedDataGenerator;
import org.bouncycastle.cms.CMSProcessableByteArray;
import org.bouncycastle.cms.CMSSignedData;
import org.bouncycastle.cms.CMSSignedDataGenerator;
import org.bouncycastle.cms.KeyAgreeRecipientInformation;
import org.bouncycastle.cms.RecipientInfoGenerator;
import org.bouncycastle.cms.RecipientInformation;
import org.bouncycastle.cms.RecipientInformationStore;
import org.bouncycastle.cms.SignerInformation;
import org.bouncycastle.cms.jcajce.JcaSignerInfoGeneratorBuilder;
import org.bouncycastle.cms.jcajce.JcaSimpleSignerInfoVerifierBuilder;
import org.bouncycastle.cms.jcajce.JceCMSContentEncryptorBuilder;
import org.bouncycastle.cms.jcajce.JceKeyAgreeEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JceKeyAgreeRecipientInfoGenerator;
import org.bouncycastle.cms.jcajce.JceKeyTransAuthEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JceKeyTransEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JceKeyTransRecipientInfoGenerator;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.operator.OutputAEADEncryptor;
import org.bouncycastle.operator.OutputEncryptor;
import org.bouncycastle.operator.jcajce.JcaAlgorithmParametersConverter;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.operator.jcajce.JcaDigestCalculatorProviderBuilder;

/** Bouncy Castle as a peer: one command a line on standard input, "ok" or an error a line back. */
public class Peer {
    private static final String BC = "BC";
    private static final Map<String, ASN1ObjectIdentifier> CIPHERS = Map.of(
        "aes128-cbc", CMSAlgorithm.AES128_CBC,
        "aes192-cbc", CMSAlgorithm.AES192_CBC,
        "aes256-cbc", CMSAlgorithm.AES256_CBC,
        "aes128-gcm", CMSAlgorithm.AES128_GCM,
        "aes256-gcm", CMSAlgorithm.AES256_GCM);

    public static void main(String[] arguments) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            try {
                run(line.split("\t"));
                System.out.println("ok");
            } catch (Exception error) {
                System.out.println(error.toString().replace('\n', ' '));
            }
            System.out.flush();
        }
    }

    private static void run(String[] words) throws Exception {
        switch (words[0]) {
            case "sign" -> sign(words[1], words[2], words[3], words[4], words[5]);
            case "verify" -> verify(words[1], words[2]);
            case "encrypt" -> encrypt(words[1], words[2], words[3], words[4], words[5], words[6]);
            case "decrypt" -> decrypt(words[1], words[2], words[3], words[4]);
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    private static void sign(String key, String pem, String algorithm, String in, String out)
            throws Exception {
        X509Certificate certificate = certificate(pem);
        CMSSignedDataGenerator generator = new CMSSignedDataGenerator();
        generator.addSignerInfoGenerator(
            new JcaSignerInfoGeneratorBuilder(
                new JcaDigestCalculatorProviderBuilder().setProvider(BC).build())
                .build(new JcaContentSignerBuilder(algorithm).setProvider(BC).build(key(key)),
                    certificate));
        generator.addCertificates(new JcaCertStore(List.of(certificate)));
        write(out, generator.generate(content(in), false).getEncoded());
    }

    private static void verify(String signature, String in) throws Exception {
        CMSSignedData signed = new CMSSignedData(content(in), read(signature));
        for (SignerInformation signer : signed.getSignerInfos()) {
            Object holder = signed.getCertificates().getMatches(signer.getSID()).iterator().next();
            if (!signer.verify(new JcaSimpleSignerInfoVerifierBuilder().setProvider(BC)
                    .build((X509CertificateHolder) holder))) {
                throw new SecurityException("bad signature");
            }
        }
    }

    private static void encrypt(
            String cipher, String transport, String encoding, String pem, String in, String out)
            throws Exception {
        RecipientInfoGenerator recipient = recipient(transport, certificate(pem));
        OutputEncryptor encryptor =
            new JceCMSContentEncryptorBuilder(CIPHERS.get(cipher)).setProvider(BC).build();
        ContentInfo made;
        if (cipher.endsWith("gcm")) {
            CMSAuthEnvelopedDataGenerator generator = new CMSAuthEnvelopedDataGenerator();
            generator.addRecipientInfoGenerator(recipient);
            made = generator.generate(content(in), (OutputAEADEncryptor) encryptor)
                .toASN1Structure();
        } else {
            CMSEnvelopedDataGenerator generator = new CMSEnvelopedDataGenerator();
            generator.addRecipientInfoGenerator(recipient);
            made = generator.generate(content(in), encryptor).toASN1Structure();
        }
        write(out, made.getEncoded(encoding));
    }

    private static RecipientInfoGenerator recipient(String transport, X509Certificate certificate)
            throws Exception {
        if (transport.equals("ecdh")) {
            KeyPairGenerator generator = KeyPairGenerator.getInstance("EC", BC);
            generator.initialize(((ECPublicKey) certificate.getPublicKey()).getParams());
            KeyPair pair = generator.generateKeyPair();
            return new JceKeyAgreeRecipientInfoGenerator(
                CMSAlgorithm.ECDH_SHA256KDF, pair.getPrivate(), pair.getPublic(),
                CMSAlgorithm.AES256_WRAP).addRecipient(certificate).setProvider(BC);
        }
        if (transport.equals("pkcs1v15")) {
            return new JceKeyTransRecipientInfoGenerator(certificate).setProvider(BC);
        }
        String digest = transport.equals("oaep-sha1") ? "SHA-1" : "SHA-256";
        OAEPParameterSpec parameters = new OAEPParameterSpec(
            digest, "MGF1", new MGF1ParameterSpec(digest), PSource.PSpecified.DEFAULT);
        return new JceKeyTransRecipientInfoGenerator(
            certificate,
            new JcaAlgorithmParametersConverter().getAlgorithmIdentifier(
                PKCSObjectIdentifiers.id_RSAES_OAEP, parameters)).setProvider(BC);
    }

    private static void decrypt(String keyFile, String pem, String in, String out)
            throws Exception {
        byte[] cms = read(in);
        boolean authenticated = ContentInfo.getInstance(cms).getContentType()
            .equals(CMSObjectIdentifiers.authEnvelopedData);
        RecipientInformationStore recipients = authenticated
            ? new CMSAuthEnvelopedData(cms).getRecipientInfos()
            : new CMSEnvelopedData(cms).getRecipientInfos();
        PrivateKey key = key(keyFile);
        X509CertificateHolder holder =
            new X509CertificateHolder(certificate(pem).getEncoded());
        for (RecipientInformation recipient : recipients) {
            if (!recipient.getRID().match(holder)) {
                continue;
            }
            if (recipient instanceof KeyAgreeRecipientInformation) {
                if (authenticated) {
                    throw new UnsupportedOperationException("GCM with key agreement");
                }
                write(out, recipient.getContent(
                    new JceKeyAgreeEnvelopedRecipient(key).setProvider(BC)));
            } else if (authenticated) {
                write(out, recipient.getContent(
                    new JceKeyTransAuthEnvelopedRecipient(key).setProvider(BC)));
            } else {
                write(out, recipient.getContent(
                    new JceKeyTransEnvelopedRecipient(key).setProvider(BC)));
            }
            return;
        }
        throw new IllegalArgumentException("no such recipient");
    }

    private static CMSProcessableByteArray content(String file) throws Exception {
        return new CMSProcessableByteArray(read(file));
    }

    private static X509Certificate certificate(String file) throws Exception {
        try (PEMParser parser = new PEMParser(new FileReader(file))) {
            return new JcaX509CertificateConverter().setProvider(BC)
                .getCertificate((X509CertificateHolder) parser.readObject());
        }
    }

    private static PrivateKey key(String file) throws Exception {
        try (PEMParser parser = new PEMParser(new FileReader(file))) {
            return new JcaPEMKeyConverter().setProvider(BC)
                .getPrivateKey((PrivateKeyInfo) parser.readObject());
        }
    }

    private static byte[] read(String file) throws Exception {
        return Files.readAllBytes(Path.of(file));
    }

    private static void write(String file, byte[] content) throws Exception {
        Files.write(Path.of(file), content);
    }
}
